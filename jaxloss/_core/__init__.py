"""What losses share. This package contains no loss and imports nothing else of the library."""
