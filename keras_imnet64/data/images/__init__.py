"""Single images: what a file is, reading, damage, views of one size, resizing."""
