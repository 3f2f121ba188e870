#!/bin/sh
# Two machines in one, with a link between them, and a job on both; as root, on Linux:
#     sh checks/bench/machines.sh 1gbit ranks fedavg
#     PATH=/folder/with/ray/bin:$PATH sh checks/bench/machines.sh 1gbit actors fedavg
set -e
speed=$1 way=$2 job=$3
python=${PYTHON:-python}
clean() {
    [ "$way" = actors ] && ip netns exec chorus1 ray stop --force >/dev/null 2>&1
    ip netns pids chorus1 | xargs -r kill -9
    ip netns pids chorus2 | xargs -r kill -9
    ip netns del chorus1
    ip netns del chorus2
}
trap clean EXIT
ip netns add chorus1
ip netns add chorus2
ip link add chorus1 netns chorus1 type veth peer name chorus2 netns chorus2
for i in 1 2; do
    ip -n chorus$i addr add 10.77.0.$i/24 dev chorus$i
    ip -n chorus$i link set chorus$i up
    ip -n chorus$i link set lo up
    [ "$speed" = none ] || tc -n chorus$i qdisc add dev chorus$i root tbf rate "$speed" burst 4mb latency 100ms
done
on() {
    i=$1
    shift
    ip netns exec chorus$i env GLOO_SOCKET_IFNAME=chorus$i OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 "$@"
}
if [ "$way" = ranks ]; then
    start="-m torch.distributed.run --nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint 10.77.0.1:29500"
    on 2 $python $start --local_addr 10.77.0.2 --rdzv_conf is_host=0 checks/bench/machines.py ranks "$job" &
    on 1 $python $start --local_addr 10.77.0.1 --rdzv_conf is_host=1 checks/bench/machines.py ranks "$job"
    wait
else
    on 1 ray start --head --node-ip-address 10.77.0.1 --port 6379 --num-cpus 1 --include-dashboard false >/dev/null
    on 2 ray start --address 10.77.0.1:6379 --node-ip-address 10.77.0.2 --num-cpus 1 >/dev/null
    on 1 $python checks/bench/machines.py actors "$job" --address 10.77.0.1:6379
fi
