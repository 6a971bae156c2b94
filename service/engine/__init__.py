"""The engine: the process between the web and the device. It owns the queue, the readers and the worker."""
