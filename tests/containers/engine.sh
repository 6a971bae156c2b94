#!/usr/bin/env bash
# Runs a command with a Docker Engine: the one of this machine where one answers, else one of its own, started from a
# Debian tree. Needs root, mmdebstrap and a Debian mirror for the latter.
#   tests/containers/engine.sh COMMAND [ARGUMENT...]
# WORK (default /tmp/pointserve-containers) keeps the tree and the images between calls.
set -euo pipefail

work=${WORK:-/tmp/pointserve-containers}/engine
tree=$work/tree

if docker version >/dev/null 2>&1; then
  exec "$@"
fi
mkdir -p "$work"/{socket,data,cli/cli-plugins}
if [ ! -x "$tree/usr/sbin/dockerd" ]; then
  echo "No Docker Engine answers; making one in $tree ..." >&2
  mmdebstrap --quiet --variant=minbase \
    --include=ca-certificates,docker.io,docker-cli,docker-buildx,docker-compose,iptables,kmod trixie "$tree"
fi
cp "$tree"/usr/libexec/docker/cli-plugins/docker-* "$work/cli/cli-plugins/"
echo '{}' >"$work/cli/config.json"
export DOCKER_HOST=unix://$work/socket/docker.sock DOCKER_CONFIG=$work/cli
command -v docker >/dev/null || PATH=$PATH:$tree/usr/bin

# The daemon lives in the tree as its root, in a mount namespace of its own; containers use the host's network.
start_daemon() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare -m --propagation private bash -euc '
    work=$0 tree=$0/tree
    mount --bind "$tree" "$tree"
    for each in proc sys dev; do mount --rbind "/$each" "$tree/$each"; done
    mkdir -p "$tree$work"
    mount --bind "$work" "$tree$work"
    cp /etc/resolv.conf "$tree/etc/"
    mount -t tmpfs tmpfs "$tree/run"
    mkdir -p "$tree/.old"
    cd "$tree"
    pivot_root . .old
    umount -l /.old
    cd /
    files=$(ulimit -Hn)
    exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin dockerd -H "unix://$work/socket/docker.sock" \
      --data-root "$work/data" --exec-root /run/docker-exec --pidfile /run/docker.pid \
      --bridge none --iptables=false --ip6tables=false \
      --default-ulimit "nofile=$files:$files" --exec-opt native.cgroupdriver=cgroupfs
  ' "$work" >"$work/dockerd.log" 2>&1 &
}

start_daemon
daemon=$!
trap 'kill $daemon 2>/dev/null; wait $daemon 2>/dev/null || true' EXIT
for _ in $(seq 120); do
  docker version >/dev/null 2>&1 && break
  sleep 0.5
done
docker version >/dev/null || {
  tail -5 "$work/dockerd.log" >&2
  exit 1
}
"$@"
