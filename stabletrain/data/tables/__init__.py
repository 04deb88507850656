"""Data from tables: CSV and Parquet files, data frames, OpenML."""
