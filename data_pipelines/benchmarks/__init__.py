"""Raw files of published benchmarks, read into questions with prompts and pictures. A new one = one reader and one entry in `table.py`."""
