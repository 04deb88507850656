"""What an MLflow run holds besides its metrics: params, tags, pictures, tables, files and the description."""
