"""What the project's claims of speed, memory and coverage rest on; each module writes a file into results/."""
