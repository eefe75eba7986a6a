"""One module an API, named like it; each declares the request and the response of every version."""
