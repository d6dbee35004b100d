#!/bin/sh
# Creates one database per service with two roles: <name>_owner migrates the schema <name>, <name>_app reads and writes
# its rows and cannot alter it; everybody else may not even connect. PostgreSQL's image runs it from
# /docker-entrypoint-initdb.d when the data folder is new. Running it again is harmless: it brings what exists to this
# state, passwords included.
#
# Which databases: those that $HOLDFAST_PASSWORDS_DIR has the files <name>_owner and <name>_app for, each a password.
# psql reads them itself, so that no process list shows one.

create_databases() ( # a subshell: where this file is not executable, the image reads it into its own shell
    set -eu
    passwords=${HOLDFAST_PASSWORDS_DIR:-/run/secrets/holdfast}

    # All are looked at before the first is used: the image never runs this file again on a folder with data in it.
    databases=
    for file in "$passwords"/*_owner; do
        database=$(basename "$file" _owner)
        check_name "$database"
        check_password "$passwords/${database}_owner"
        check_password "$passwords/${database}_app"
        databases="$databases $database"
    done
    for database in $databases; do
        create_database "$database"
        grant "$database"
        echo "create-databases: $database"
    done
)

check_name() {
    case $1 in
    '*') fail "there is no file <name>_owner in $passwords" ;;
    *[!a-z0-9_]* | [!a-z_]*) fail "not a plain PostgreSQL name: $1" ;;
    esac
}

check_password() {
    [ -s "$1" ] && [ -r "$1" ] || fail "there is no password in $1"
}

fail() {
    echo "create-databases: $1" >&2
    exit 1
}

create_database() {
    run_sql postgres "$1" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', role) FROM unnest(ARRAY[:'owner', :'runtime']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec
\set password `cat :'owner_file'`
ALTER ROLE :"owner" PASSWORD :'password';
\set password `cat :'runtime_file'`
ALTER ROLE :"runtime" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
}

grant() {
    run_sql "$1" "$1" <<'SQL'
SET ROLE :"owner";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"runtime";
GRANT USAGE ON SCHEMA public TO :"runtime";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"runtime";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO :"runtime";
SQL
}

# Runs standard input as a superuser in database $1, about the service database $2. The server keeps only hashes of passwords;
# neither its log nor psql's messages repeat a statement that has failed.
run_sql() {
    PGOPTIONS='-c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1' \
        psql --no-psqlrc --quiet --no-password --username "${POSTGRES_USER:-postgres}" --dbname "$1" \
        --set ON_ERROR_STOP=1 --set VERBOSITY=terse --set database="$2" --set owner="${2}_owner" \
        --set runtime="${2}_app" --set owner_file="$passwords/${2}_owner" --set runtime_file="$passwords/${2}_app"
}

create_databases
