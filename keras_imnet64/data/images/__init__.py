"""Single images: kinds of files, reading, damage, views of one size, resizing."""
