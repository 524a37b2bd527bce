#!/usr/bin/env bash
# Installs the few system packages that building and testing need: a C compiler (bundled SQLite, TLS), python3 (python
# jobs), PostgreSQL (tests start servers of their own from its programs), a JDK and Maven (tests with real PowerJob
# workers). Does nothing where they are there; says what to install where it may not.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v python3 >/dev/null || missing+=(python3)
command -v setsid >/dev/null || missing+=(util-linux)
# The import from PowerJob is tried with a MariaDB server of the tests' own.
[ -x "${PENDULA_MARIADB_BIN:-/usr/sbin}/mariadbd" ] || command -v mariadbd >/dev/null || missing+=(mariadb-server-core)
if [ -z "${PENDULA_POSTGRES_BIN:-}" ] && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    command -v initdb >/dev/null || missing+=(postgresql)
fi
command -v java >/dev/null && command -v javac >/dev/null || missing+=(default-jdk-headless)
command -v mvn >/dev/null || missing+=(maven)

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    else
        echo "missing: ${missing[*]}. On Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "missing: the Rust toolchain (cargo 1.95 or later); see https://rustup.rs" >&2
    exit 1
fi
