"""The studio over HTTP: `/v1` is our own interface, `/sdapi/v1` the WebUI's; both share one Studio."""
