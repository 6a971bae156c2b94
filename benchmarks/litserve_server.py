"""LitServe on the stub model: python -m benchmarks.litserve_server PORT, in an environment that has litserve."""

import base64
import importlib
import sys

import numpy as np

from benchmarks.stub_model import labels

# By name, as neither is a dependency of this project.
litserve, fastapi = importlib.import_module("litserve"), importlib.import_module("fastapi")
Request = fastapi.Request


class Labels(litserve.LitAPI):
    """Binary coordinates in, as a form's file or as base64 in JSON; binary labels out."""

    def setup(self, device: str) -> None:
        self.model = labels

    # LitServe looks at this annotation: with another one it wants a body of that type.
    def decode_request(self, request: Request) -> np.ndarray:
        if "coord" in request:
            data = base64.b64decode(request["coord"])
        else:
            data = request["content"].file.read()
        return np.frombuffer(data, "<f4").reshape(-1, 3)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model(x)

    def encode_response(self, output: np.ndarray) -> object:
        return fastapi.Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    litserve.LitServer(Labels(), accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="error"
    )
