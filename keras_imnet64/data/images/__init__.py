"""Single images: reads, checks, describes and resizes image files."""
