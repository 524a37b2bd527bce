#!/bin/sh
# Runs inside the PostgreSQL container, once, when its volume is empty: a role that owns one database and nothing else.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$DATABASE_PASSWORD" --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE pendula LOGIN PASSWORD :'password';
CREATE DATABASE pendula OWNER pendula;
REVOKE ALL ON DATABASE pendula FROM PUBLIC;
SQL
