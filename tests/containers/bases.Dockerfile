# The base images that stand in for NVIDIA's and PyTorch's; made from Debian trees by run.sh.
ARG TREE
FROM ${TREE} AS plain
# pip before 24.2 knows its own certificate authorities only, not the system's.
RUN printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n' > /etc/pip.conf

# Debian's nvcc 12.4 where NVIDIA's image has it, and the g++ that it supports as the default one.
FROM plain AS cuda
RUN mkdir -p /usr/local/cuda && \
    ln -s /usr/lib/nvidia-cuda-toolkit/bin /usr/local/cuda/bin && \
    ln -s /usr/include /usr/local/cuda/include && \
    ln -s /usr/lib/x86_64-linux-gnu /usr/local/cuda/lib64 && \
    for name in gcc g++; do ln -s "/usr/bin/${name}-13" "/usr/local/bin/${name}"; done && \
    ln -s /usr/bin/g++-13 /usr/local/bin/c++ && ln -s /usr/bin/gcc-13 /usr/local/bin/cc

# PyPI's torch 2.7.1 is the build for CUDA 12.6, as in PyTorch's image; there is no nvcc.
FROM plain AS torch
RUN pip install --no-cache-dir torch==2.7.1 numpy==1.26.4
RUN ln -s python3 /usr/bin/python
