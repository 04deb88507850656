"""MLflow as a view of the record on disk: the shipper, the saved view, and the servers of their pages."""
