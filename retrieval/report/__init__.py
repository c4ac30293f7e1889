"""Tables, charts and pages from what runs left behind."""
