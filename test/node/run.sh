#!/usr/bin/env bash
# Runs the node test in a cluster whose nodes are namespaces of this machine. It needs, as environment:
#
#   KUBECTL      the kubectl command of the cluster           (kubectl)
#   NODE         the name of the node                         (n1)
#   NODE_NETNS   the path of the node's network namespace     (/run/netns/kn1)
#   POD_IMAGE    an image with a `sleep`, present on the node (k8s.test/tools:1)
#   WORLD        IP:PORT where CoreDNS forwards other names   (172.30.0.253:53)
#   PROXY_MODE   kube-proxy's mode, for the heading           (iptables)
#
# Arguments go to the test program (-stream 20s, -lookups 1000).
set -euo pipefail
cd "$(dirname "$0")/../.."
KUBECTL=${KUBECTL:-kubectl} NODE=${NODE:-n1} NODE_NETNS=${NODE_NETNS:-/run/netns/kn1} POD_IMAGE=${POD_IMAGE:-k8s.test/tools:1}
WORLD=${WORLD:-172.30.0.253:53} PROXY_MODE=${PROXY_MODE:-iptables}

marker=$((90000 + RANDOM % 9000)) # the pod's sleep, by which its process is found on this machine
$KUBECTL delete pod dnslet-node-test --ignore-not-found --now >/dev/null
$KUBECTL apply -f - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata: {name: dnslet-node-test}
spec:
  nodeName: $NODE
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "$POD_IMAGE", imagePullPolicy: Never, command: [sleep, "$marker"]}]
POD
after() {
  $KUBECTL delete pod dnslet-node-test --now --ignore-not-found >/dev/null
  # The last step flushed kube-proxy's rules too: something to change makes it put them back.
  $KUBECTL create service clusterip dnslet-node-test --tcp=80 >/dev/null && $KUBECTL delete service dnslet-node-test >/dev/null
}
trap after EXIT
$KUBECTL wait pod/dnslet-node-test --for=condition=Ready --timeout=60s >/dev/null

pod=
for dir in /proc/[0-9]*; do
  [ "$(tr '\0' ' ' 2>/dev/null <"$dir/cmdline")" = "sleep $marker " ] && pod=$dir/ns/net && break
done
[ -n "$pod" ] || { echo "the pod's process was not found on this machine" >&2; exit 1; }

vip=$($KUBECTL -n kube-system get service kube-dns -o jsonpath='{.spec.clusterIP}')
endpoints=$($KUBECTL -n kube-system get endpointslices -l kubernetes.io/service-name=kube-dns \
  -o jsonpath='{range .items[*].endpoints[*]}{.addresses[0]}:53{"\n"}{end}' | paste -sd, -)

make -s build
go run ./test/node -node "$NODE_NETNS" -pod "$pod" -vip "$vip" -endpoints "$endpoints" -world "$WORLD" -proxy "$PROXY_MODE" "$@"
