#!/usr/bin/env bash
# Checks the files of this folder with the tools that are there. Exit code 1 when something failed; what was skipped for
# lack of a tool is named, and is no failure.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
repository=$(cd .. && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0

pass() { passed=$((passed + 1)) && echo "ok       $1"; }
fail() { failed=$((failed + 1)) && echo "FAILED   $1"; }
skip() { skipped=$((skipped + 1)) && echo "skipped  $1: no $2 here"; }

# check WHAT COMMAND…: shows what the command says only when it fails.
check() {
    local what=$1
    shift
    if "$@" >"$scratch/said" 2>&1; then pass "$what"; else
        fail "$what"
        sed 's/^/         /' "$scratch/said"
    fi
}
# refuse WHAT COMMAND…: the command must fail.
refuse() {
    local what=$1
    shift
    if "$@" >"$scratch/said" 2>&1; then fail "$what"; else pass "$what"; fi
}
has() { command -v "$1" >/dev/null; }

# --- shell -----------------------------------------------------------------------------------------------------------
scripts=(check.sh compose/*.sh)
if has shellcheck; then check "scripts" shellcheck "${scripts[@]}"; else skip "scripts" shellcheck; fi

# --- images ----------------------------------------------------------------------------------------------------------
if has hadolint; then check "Dockerfile" hadolint Dockerfile; else skip "Dockerfile" hadolint; fi

# --- compose ---------------------------------------------------------------------------------------------------------
compose=()
if docker compose version >/dev/null 2>&1; then compose=(docker compose); elif has docker-compose; then compose=(docker-compose); fi
if [ ${#compose[@]} -gt 0 ]; then
    printf '%s\n' POSTGRES_PASSWORD=a DATABASE_PASSWORD=b ADMIN_TOKEN=c >"$scratch/env"
    with() { env -u POSTGRES_PASSWORD -u DATABASE_PASSWORD -u ADMIN_TOKEN "${compose[@]}" -f compose/compose.yaml --env-file "$@" --profile tools config --quiet; }
    check "compose file" with "$scratch/env"
    for secret in POSTGRES_PASSWORD DATABASE_PASSWORD ADMIN_TOKEN; do
        grep -v "^$secret=" "$scratch/env" >"$scratch/env-without"
        refuse "compose file without $secret is refused" with "$scratch/env-without"
    done
else
    skip "compose file" "docker compose"
fi
if has haproxy; then check "load balancer" haproxy -c -f compose/haproxy.cfg; else skip "load balancer" haproxy; fi

# --- systemd ---------------------------------------------------------------------------------------------------------
if has systemd-analyze; then
    mkdir "$scratch/units"
    for unit in systemd/*.service; do
        # The binary need not be installed where this runs.
        sed 's#^ExecStart=/usr/bin/pendula#ExecStart=/bin/true#' "$unit" >"$scratch/units/$(basename "$unit")"
    done
    for unit in "$scratch"/units/*.service; do
        # It warns with exit code 0, about a misspelled setting for one.
        silent() { systemd-analyze verify "$1" >"$scratch/verify" 2>&1 && ! grep . "$scratch/verify"; }
        check "$(basename "$unit")" silent "$unit"
        check "$(basename "$unit") is closed" systemd-analyze security --offline=true --threshold=20 --no-pager "$unit"
    done
    mkdir -p "$scratch/root/etc"
    check "users" systemd-sysusers --root="$scratch/root" "$PWD/systemd/pendula.sysusers"
    check "directories" systemd-tmpfiles --root="$scratch/root" --create "$PWD/systemd/pendula.tmpfiles"
else
    skip "systemd units" systemd-analyze
fi

# --- kubernetes ------------------------------------------------------------------------------------------------------
build=()
if has kustomize; then build=(kustomize build); elif has kubectl; then build=(kubectl kustomize); fi
if [ ${#build[@]} -gt 0 ]; then
    for part in servers workers; do
        mkdir "$scratch/$part"
        cp kubernetes/"$part"/*.yaml "$scratch/$part"
        refuse "kubernetes/$part without secrets is refused" "${build[@]}" "$scratch/$part"
        sed -n 's/^\([A-Z_]*\)=$/\1=filled-in/p' "kubernetes/$part/secret.env.example" >"$scratch/$part/secret.env"
        manifests() { "${build[@]}" "$scratch/$part" >"$scratch/$part.yaml"; }
        check "kubernetes/$part" manifests
    done
    # The oldest version that the manifests are for; `unhealthyPodEvictionPolicy` and `matchLabelKeys` came with it.
    oldest=1.27
    if has kubernetes-validate; then
        check "manifests' fields ($oldest)" kubernetes-validate --strict --quiet -k $oldest "$scratch"/servers.yaml "$scratch"/workers.yaml
    elif has kubeconform; then
        # KUBERNETES_SCHEMAS names another place for schemas where the usual one cannot be reached.
        check "manifests' fields ($oldest)" kubeconform -strict -kubernetes-version $oldest.0 \
            -schema-location "${KUBERNETES_SCHEMAS:-default}" "$scratch"/servers.yaml "$scratch"/workers.yaml
    else
        skip "manifests' fields" "kubernetes-validate or kubeconform"
    fi
else
    skip "kubernetes manifests" "kustomize or kubectl"
fi

# --- prometheus ------------------------------------------------------------------------------------------------------
if has promtool; then
    check "alerts" promtool check rules prometheus/pendula.rules.yaml
    check "alerts, tested" promtool test rules prometheus/pendula.rules.test.yaml
else
    skip "alerts" promtool
fi

# --- names -----------------------------------------------------------------------------------------------------------
# A metric that the servers do not have would never alert, an option that they do not have would never work.
metrics() {
    local known name unknown=0
    known=$(grep -oE 'r\.register(_with_unit)?\("[a-z_]+"' "$repository/crates/server/src/metrics.rs" | sed 's/.*"\(.*\)"/\1/')
    while read -r name; do
        name=${name#pendula_}
        # As they are exported: with a unit and what kind of value it is.
        if ! grep -qxE "$(sed -E 's/_(total|bucket|count|sum)$//; s/(.*)_(seconds|bytes)$/\1(_\2)?/' <<<"$name")" <<<"$known"; then
            echo "pendula_$name is none of the server's metrics" && unknown=1
        fi
    done < <(grep -ohE '\bpendula_[a-z_]+' prometheus/*.yaml "$repository/docs/operations.md" | sort -u)
    return $unknown
}
options() {
    local known name unknown=0
    known=$(grep -oE '^ +("[a-z_.]+",$|key: "[a-z_.]+")|(option|unset)\("[a-z_.]+"' "$repository/crates/server/src/config/options.rs" |
        sed 's/.*"\(.*\)".*/\1/' | tr 'a-z.' 'A-Z_' | sed 's/^/PENDULA_/')
    known+=$'\n'$(grep -oE '"PENDULA_[A-Z_]+"' "$repository/crates/server/src/config/raw.rs" | tr -d '"')
    while read -r name; do
        case $name in PENDULA_PORT) continue ;; esac # Kubernetes' own; see servers.yaml
        grep -qx "$name" <<<"$known" || { echo "$name is no variable of Pendula's" && unknown=1; }
    done < <(grep -rohE '\bPENDULA_[A-Z_]+' --exclude=check.sh . "$repository/docs/operations.md" | sort -u)
    return $unknown
}
# Where a binary is, each command that is written here must be one of its own.
commands() {
    local line words unknown=0
    while read -r line; do
        read -ra words <<<"$line"
        "$PENDULA_BIN" "${words[@]}" --help >/dev/null 2>&1 || { echo "pendula $line: no such command" && unknown=1; }
    done < <(cat README.md ./*/*.yaml ./*/*/*.yaml ./*/*.service ./*/*.sh "$repository/docs/operations.md" |
        grep -oE '(\bpendula|\bcli) (server|worker|apply|diff|export|job|instance|app|token|login|import|doctor|config|cluster|migrate|copy|version)( (list|show|drain|create|revoke|update|delete|status|plan|apply|run|check|why|logs|stop|retry|enable|disable))?\b' |
        sed -E 's/^[a-z]+ //' | sort -u)
    return $unknown
}
if [ -d "$repository/crates" ]; then
    check "metrics exist" metrics
    check "options exist" options
else
    skip "names" "source"
fi
if [ -n "${PENDULA_BIN:-}" ]; then check "commands exist" commands; else skip "commands" "PENDULA_BIN"; fi

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
