"""What an MLflow run holds beside its metrics: params, tags, pictures, tables, files and the description."""
