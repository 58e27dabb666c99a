#!/usr/bin/env bash
# A team's tracking server: runs and models in PostgreSQL, artifacts in an S3 store, a password for everybody.
# docs/team-server.md says how it is used. Needs what `pip install 'qdesk[server]'` brings.
#
#   DATABASE_URL    postgresql://user:password@host:5432/mlflow
#   ARTIFACTS       s3://bucket/prefix; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store of one's
#                   own, MLFLOW_S3_ENDPOINT_URL are the server's alone, no client has them
#   ALLOWED_HOSTS   names that clients call it by, with commas: mlflow.desk.example,localhost:*
#   MLFLOW_AUTH_ADMIN_PASSWORD       of the user `admin`, at the first start
#   MLFLOW_FLASK_SERVER_SECRET_KEY   random, the same at every start
#   HOST, PORT      what it listens on (127.0.0.1, 5000); TLS is for the proxy in front of it
set -euo pipefail
: "${DATABASE_URL:?set it to postgresql://user:password@host:5432/mlflow}"
: "${ARTIFACTS:?set it to s3://bucket/prefix}"
: "${ALLOWED_HOSTS:?set it to the names that clients call this server by}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?choose the password of the user admin}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?choose a long random text, say of: openssl rand -hex 32}"

umask 077
state=${STATE_DIRECTORY:-$PWD} # for a file with the address of the database, which nobody else can read
# Whoever has an account may read and write runs and models; permissions of single models can be narrowed.
# MLflow keeps accounts and permissions in tables of their own beside the runs. Without the cache every
# request would wait for its password to be hashed.
cat >"$state/auth.ini" <<EOF
[mlflow]
default_permission = EDIT
database_uri = $(printf %s "$DATABASE_URL" | sed 's/%/%%/g')
admin_username = admin
auth_cache_ttl_seconds = 60
EOF

# All by environment: what stands in a command line can be read by every user of the machine.
export MLFLOW_AUTH_CONFIG_PATH=$state/auth.ini
export MLFLOW_BACKEND_STORE_URI=$DATABASE_URL
export MLFLOW_ARTIFACTS_DESTINATION=$ARTIFACTS
export MLFLOW_SERVER_ALLOWED_HOSTS=$ALLOWED_HOSTS
export MLFLOW_HOST=${HOST:-127.0.0.1}
export MLFLOW_PORT=${PORT:-5000}
export MLFLOW_WORKERS=${WORKERS:-2}
export MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec "${MLFLOW:-mlflow}" server --app-name basic-auth
