"""Image files of users: listing, reading, resizing, writing."""
