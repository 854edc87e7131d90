"""For authors: the lesson sources, and what builds, pulls and checks them."""
