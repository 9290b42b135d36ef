"""What every part uses: errors, files, paths, zips, processes, console. Knows no other part."""
