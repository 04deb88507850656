#!/usr/bin/env bash
# A Docker engine of our own on this machine, for tests: root on Debian 12. What it starts, it stops by process id.
# usage: lab.sh docker-up | docker-down | images | plugins
# docker-up prints what to `eval`; images are made from Debian's packages under the public names where no registry answers.
set -euo pipefail
LAB=${LAB:-${TMPDIR:-/tmp}/stabletrain-lab}
export DOCKER_HOST=unix://$LAB/docker/docker.sock DOCKER_CONFIG=$LAB/docker-config
PYTHON_IMAGE=python:3.11-slim-bookworm POSTGRES_IMAGE=postgres:15-bookworm

install() { # package…
  local missing=()
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

mirror() { awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources; }

docker_up() {
  install docker.io iptables
  mkdir -p "$LAB/docker"
  docker info >/dev/null 2>&1 || {
    # Addresses kept for tests of networks (RFC 2544), so that no real network is hidden.
    setsid dockerd --data-root "$LAB/docker/data" --exec-root "$LAB/docker/exec" --pidfile "$LAB/docker/docker.pid" \
      --host "$DOCKER_HOST" --bip 198.18.0.1/24 --default-address-pool base=198.18.16.0/20,size=24 --ip-forward=false \
      >"$LAB/docker/log" 2>&1 </dev/null &
    touch "$LAB/docker/ours"
  }
  for _ in $(seq 600); do
    docker info >/dev/null 2>&1 && { echo "export DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG"; return; }
    sleep 0.5
  done
  tail -n 5 "$LAB/docker/log" >&2
  return 1
}

docker_down() { # only an engine that docker-up started
  [[ -e $LAB/docker/ours ]] || return 0
  kill "$(cat "$LAB/docker/docker.pid")"
  rm "$LAB/docker/ours"
}

have() { docker image inspect "$1" >/dev/null 2>&1 || docker pull -q "$1" >/dev/null 2>&1; }

debian_image() { # as small as debootstrap makes it
  local base=$LAB/base
  install debootstrap
  mkdir -p "$base"
  if [[ ! -s $base/debian.tar ]]; then
    rm -rf "$base/root"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$base/root" "$(mirror)" >"$base/log"
    cp /etc/apt/sources.list.d/debian.sources "$base/root/etc/apt/sources.list.d/"
    : >"$base/root/etc/apt/sources.list"
    rm -rf "$base"/root/var/{cache/apt,lib/apt/lists}/* "$base"/root/usr/share/{doc,man,info,locale}/*
    tar -C "$base/root" --numeric-owner -cf "$base/debian.tar" .
    rm -rf "$base/root"
  fi
  docker import -c 'CMD ["bash"]' "$base/debian.tar" debian:bookworm-slim >/dev/null
}

images() {
  export DOCKER_BUILDKIT=0
  have "$PYTHON_IMAGE" && have "$POSTGRES_IMAGE" && return
  have debian:bookworm-slim || debian_image
  have "$PYTHON_IMAGE" || docker build -q --network host -t "$PYTHON_IMAGE" - >/dev/null <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/* && for n in python python3; do ln -s /usr/bin/python3 /usr/local/bin/$n; done
CMD ["python3"]
DOCKERFILE
  have "$POSTGRES_IMAGE" || postgres_image
}

postgres_image() { # the part of the official image's entry point that compose.yaml relies on
  local context=$LAB/postgres
  mkdir -p "$context"
  cat >"$context/entrypoint" <<'SH'
#!/bin/bash
set -e
: "${POSTGRES_PASSWORD:?}" "${POSTGRES_USER:=postgres}"
export PGDATA=/var/lib/postgresql/data/pgdata PATH=/usr/lib/postgresql/15/bin:$PATH
if [ "$(id -u)" = 0 ]; then chown postgres /var/lib/postgresql/data; exec runuser -u postgres -- "$0"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb ${POSTGRES_INITDB_ARGS:-} -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD") >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl -w -o "-c listen_addresses=''" start >/dev/null
  PGPASSWORD=$POSTGRES_PASSWORD createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -w stop >/dev/null
fi
exec postgres -c listen_addresses='*'
SH
  cat >"$context/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
COPY --chmod=755 entrypoint /entrypoint
STOPSIGNAL SIGINT
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["/entrypoint"]
DOCKERFILE
  DOCKER_BUILDKIT=1 docker build -q --network host -t "$POSTGRES_IMAGE" "$context" >/dev/null
}

plugins() { # buildx and compose, from Debian's next release, beside the system's own packages
  docker compose version >/dev/null 2>&1 && return
  local apt=$LAB/trixie
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$DOCKER_CONFIG/cli-plugins"
  : >"$apt/status"
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' "$(mirror)" \
    /usr/share/keyrings/debian-archive-keyring.gpg >"$apt/debian.sources"
  cat >"$apt/conf" <<CONF
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "-";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache::archives "$apt/cache/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
CONF
  apt-get -qq -c "$apt/conf" update
  (cd "$apt" && apt-get -qq -c "$apt/conf" download docker-buildx docker-compose)
  for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$apt/content"; done
  cp "$apt"/content/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
}

case ${1:?see the usage above} in
docker-up) docker_up ;;
docker-down) docker_down ;;
images) images ;;
plugins) plugins ;;
*) echo "unknown: $1" >&2; exit 2 ;;
esac
