"""What users run: photos to images, one by one or by a table, with their files, metadata and watermark."""
