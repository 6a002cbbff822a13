#!/bin/sh
# What one container of the image is: magicvideo-role ray-head | ray-node | driver | prefect-server | deploy
# Ray's address is RAY_ADDRESS (host:port); a Ray node takes further options of `ray start`.
set -eu
# Clips go through storage: Ray's object store holds little. Larger than the container's /dev/shm it would lie on the disk.
object_store=--object-store-memory=536870912
role=${1:?which role: ray-head, ray-node, driver, prefect-server or deploy}
shift
case "$role" in
ray-head)
    exec ray start --head --block --port=6379 --dashboard-host=0.0.0.0 --metrics-export-port=8080 "$object_store" "$@"
    ;;
ray-node)
    exec ray start --block --address="$RAY_ADDRESS" --metrics-export-port=8080 "$object_store" "$@"
    ;;
driver)
    # A driver of Ray has to be on a node of the cluster: this one offers nothing, so no actor is placed beside it.
    ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --metrics-export-port=8080 "$object_store"
    exec prefect worker start --pool magicvideo --type process "$@"
    ;;
prefect-server)
    exec prefect server start --host 0.0.0.0 "$@"
    ;;
deploy)
    exec python deployments/deploy.py "$@"
    ;;
*)
    echo "Unknown role '$role': choose ray-head, ray-node, driver, prefect-server or deploy." >&2
    exit 2
    ;;
esac
