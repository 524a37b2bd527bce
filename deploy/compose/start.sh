#!/bin/sh
# Makes the secrets that are missing, starts the servers, makes the workers' token, starts the workers. May be run again.
set -eu
cd "$(dirname "$0")"
umask 077
touch .env
chmod 600 .env

# 256 random bits, in letters that need no quoting in a URL.
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
has() { grep -q "^$1=." .env; }
for name in POSTGRES_PASSWORD DATABASE_PASSWORD ADMIN_TOKEN; do
    has "$name" || echo "$name=$(random)" >>.env
done

docker compose build
docker compose up --detach --wait balancer

if ! has WORKER_TOKEN; then
    app=$(sed -n 's/^APP=//p' .env)
    app=${app:-demo}
    cli() { docker compose run --rm --no-deps -T cli "$@" </dev/null; }
    # An app may run scripts only where an administrator says so: here.
    cli app show "$app" >/dev/null 2>&1 || cli app create "$app" --allow-scripts
    token=$(cli token create compose-workers --kind worker --app "$app" --quiet)
    [ -n "$token" ]
    echo "WORKER_TOKEN=$token" >>.env
fi

docker compose up --detach
docker compose ps
echo "The administrator's token is ADMIN_TOKEN in $(pwd)/.env; 'docker compose run --rm cli doctor' uses it."
