"""MLflow as a view of the record on disk: the shipper, the saved view, and the pages that show them."""
