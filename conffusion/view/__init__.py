"""Looking at predictions: one local HTML page that needs no server."""
