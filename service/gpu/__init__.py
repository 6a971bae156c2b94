"""What the machine's NVIDIA driver and the compiled extensions say of themselves, asked without torch."""

from service.gpu.driver import Driver, Fault, query
from service.gpu.fatbin import Architectures, architectures

__all__ = ["Architectures", "Driver", "Fault", "architectures", "query"]
