"""Where photos come from, how they are decoded and how they are batched."""
