"""What lies on disk: declarations, the Arrow adapter, the store, the manifest."""
