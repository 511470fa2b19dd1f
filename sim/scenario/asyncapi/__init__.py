"""AsyncAPI 3 in and out: documents of services become a bus file, and a bus file becomes documents.

`documents` reads the text and follows its references, `templates` makes payloads of schemas, `service` reads what one document says,
`bus` joins them to one bus file, and `export` goes the other way.
"""
