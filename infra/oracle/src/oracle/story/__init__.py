"""One order's story over all services, from what their databases keep: `holdfast explain order ID`."""
