"""Archives of raw data, unpacked safely."""
