# Sourced by control-plane.sh and up.sh: certificates, etcd and API server, in the working folder.
# `programs` is the folder that build.sh printed; nothing here cleans up: the end of the calling script does.
set -euo pipefail
pids=()

# A slot is a number that gives a cluster its ports: below those that the kernel hands out, held by a lock while we live.
take_slot() {
  local slots=${programs%/*}/slots slot
  mkdir -p "$slots"
  for slot in {0..99}; do
    exec 9>"$slots/$slot"
    api_port=$((21000 + 20 * slot)) etcd_port=$((21001 + 20 * slot)) peer_port=$((21002 + 20 * slot))
    flock -n 9 && is_free "$api_port" && is_free "$etcd_port" && is_free "$peer_port" && return
  done
  echo "all slots for clusters are taken" >&2
  return 1
}
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

key() { openssl ecparam -name prime256v1 -genkey -noout -out "pki/$1.key"; }
authority() { key ca; openssl req -x509 -new -key pki/ca.key -days 30 -subj /CN=e2e-ca -out pki/ca.crt; }
# certificate NAME SUBJECT ALTERNATIVE-NAMES
certificate() {
  key "$1"
  openssl req -new -key "pki/$1.key" -subj "$2" |
    openssl x509 -req -CA pki/ca.crt -CAkey pki/ca.key -set_serial "0x$(openssl rand -hex 8)" -days 30 -out "pki/$1.crt" \
      -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3") 2>/dev/null
}
# kubeconfig NAME: with paths relative to the file
kubeconfig() {
  cat >"$1.kubeconfig" <<X
apiVersion: v1
kind: Config
current-context: e2e
contexts: [{name: e2e, context: {cluster: e2e, user: $1}}]
clusters: [{name: e2e, cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: pki/$1.crt, client-key: pki/$1.key}}]
X
}

# start NAME COMMAND…: a program that goes with this script even where that is killed without a chance to clean up.
start() {
  local name=$1; shift
  setpriv --pdeathsig KILL "$@" >"log/$name.log" 2>&1 </dev/null 9>&- &
  pids+=($!)
  echo $! >"log/$name.pid"
}

admin() { "$programs/kubectl" --kubeconfig admin.kubeconfig --request-timeout=10s "$@"; }

# wait_for WHAT COMMAND…: two minutes at most, and not at all when a program died.
wait_for() {
  local what=$1 pid; shift
  for _ in {1..600}; do
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || { fail "a program ended while waiting for $what"; return 1; }; done
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  fail "$what: not within two minutes"
}
fail() { echo "$1" >&2; tail -n 20 log/*.log >&2; return 1; }

# start_api ADDRESS FLAG…: etcd and the API server, advertised at the address, with further flags (the last of a kind counts).
start_api() {
  local address=$1; shift
  mkdir pki log etcd
  authority
  certificate api /CN=kube-apiserver "DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
  certificate admin /O=system:masters/CN=admin DNS:admin
  kubeconfig admin
  key sa
  start etcd "$programs/etcd" --data-dir etcd --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$etcd_port" \
    --advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" --initial-cluster "default=http://127.0.0.1:$peer_port"
  start kube-apiserver "$programs/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" --secure-port "$api_port" \
    --bind-address 127.0.0.1 --advertise-address "$address" --endpoint-reconciler-type none \
    --tls-cert-file pki/api.crt --tls-private-key-file pki/api.key --client-ca-file pki/ca.crt \
    --kubelet-client-certificate pki/admin.crt --kubelet-client-key pki/admin.key \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file pki/sa.key \
    --service-account-signing-key-file pki/sa.key --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction --allow-privileged=true "$@"
  wait_for "the API server" admin get --raw /readyz
}
