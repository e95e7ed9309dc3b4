"""Where the work is done. Each backend is a module of the same few functions over `Rows`."""
