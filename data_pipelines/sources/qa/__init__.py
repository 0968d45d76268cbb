"""Question files of any form as records: a form reads one row, everything else is shared."""
