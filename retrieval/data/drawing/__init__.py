"""How the embedded landmarks are drawn: a building's plan, its facade, and photos of it."""
