# shellcheck shell=bash
# What the scripts share. It is sourced, and leaves them in the root of the checkout.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD
# Where `make run` keeps the data, the log and the pid of what it started.
# shellcheck disable=SC2034
data=$root/funcd-data
# Debian leaves the programs of root, dockerd among them, out of the PATH of `su`.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# A proxy is never on the way to this machine itself.
export no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}"

say() { printf '==> %s\n' "$*"; }

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# at_least VERSION MINIMUM tells whether the one is the other or later.
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# pinned TOOL prints the version of nomad or consul that tools/ builds, such as v1.11.3.
pinned() { awk -v module="github.com/hashicorp/$1" '$1 == module && $2 ~ /^v/ { print $2 }' "tools/$1/go.mod"; }

minimum() {
	case $1 in
	nomad) echo 1.8.0 ;;
	consul) echo 1.17.0 ;;
	esac
}

# tool NAME prints the path of the nomad or consul to use: the one on the PATH if it is new enough, else the one that was built of the
# pinned version. It fails if there is neither.
tool() {
	local path version
	if path=$(command -v "$1"); then
		version=$("$path" version 2>/dev/null | sed -n '1s/.* v\([0-9.]*\).*/\1/p')
		if [ -n "$version" ] && at_least "$version" "$(minimum "$1")"; then
			echo "$path"
			return
		fi
	fi
	path=$root/.bin/$1
	[ -x "$path" ] && [ "$(go version -m "$path" | awk '$1 == "mod" { print $3 }')" = "$(pinned "$1")" ] && echo "$path"
}

# use_tools lets the programs that are started from here find the right nomad and consul.
use_tools() {
	local name path
	for name in nomad consul; do
		path=$(tool "$name") || die "there is no $name, run scripts/setup"
		case $path:$PATH in
		"$root"/.bin/*:"$root"/.bin:*) ;;
		"$root"/.bin/*) PATH=$root/.bin:$PATH ;;
		esac
	done
	export PATH FUNCD_TOOLS=$root/.bin
}

# build_image IMAGE FOLDER PROGRAM builds an image of the folder's Dockerfile and the program, a path. It needs no network. An image whose
# content has not changed is left as it is.
build_image() {
	local image=$1 folder=$2 program=$3 label=funcd-content content
	content=$(cat "$folder/Dockerfile" "$program" | sha256sum | cut -d ' ' -f 1)
	if [ "$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null)" = "$content" ]; then
		return
	fi
	say "building the image $image"
	mkdir -p bin/images
	# The context is a tar of two files. An attestation would make an image that is known by another id than its own.
	tar -c -h -C "$root/$folder" Dockerfile -C "$(realpath "${program%/*}")" "${program##*/}" |
		BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --label "$label=$content" --tag "$image" - >bin/images/build.log 2>&1 || {
		tail -n 20 bin/images/build.log >&2
		die "the image $image could not be built"
	}
}

# is_running PIDFILE PROGRAM tells whether the process that the file names is still the program (an absolute path), also if the file of
# that program has been replaced since. A pid alone proves nothing, the kernel gives it out again.
is_running() {
	local pid exe
	pid=$(cat "$1" 2>/dev/null) && exe=$(readlink "/proc/$pid/exe" 2>/dev/null) && [ "${exe% (deleted)}" = "$2" ]
}

# end PIDFILE PROGRAM SECONDS sends SIGTERM to the process and waits, and after the seconds sends SIGKILL. It fails if it came to that.
end() {
	local pid waited=0
	if is_running "$1" "$2"; then
		pid=$(cat "$1")
		kill -TERM "$pid"
		while is_running "$1" "$2"; do
			if [ "$waited" -ge $(($3 * 10)) ]; then
				kill -KILL "$pid"
				rm -f "$1"
				return 1
			fi
			sleep 0.1
			waited=$((waited + 1))
		done
	fi
	rm -f "$1"
}

# end_dockerd ends the Docker daemon if scripts/setup has started it by hand and no container runs in it.
end_dockerd() {
	local program
	program=$(command -v dockerd) && program=$(readlink -f "$program") || return 0
	is_running "$data/dockerd.pid" "$program" || return 0
	if [ -n "$(docker ps --quiet 2>/dev/null)" ]; then
		say "Docker's daemon is left running, as there are containers in it"
		return 0
	fi
	say "stopping Docker's daemon"
	end "$data/dockerd.pid" "$program" 60
}

# kill_dockerd ends a Docker daemon that can't end by itself, if scripts/setup has started it by hand. It fails if there is none.
kill_dockerd() {
	local program pid containerd=/var/run/docker/containerd/containerd.pid
	program=$(command -v dockerd) && program=$(readlink -f "$program") && is_running "$data/dockerd.pid" "$program" || return 1
	pid=$(cat "$containerd" 2>/dev/null) || pid=
	kill -KILL "$(cat "$data/dockerd.pid")"
	# Its containerd ends with it. A new daemon that found it still there would wait for it.
	for _ in $(seq 100); do
		if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
			break
		fi
		sleep 0.1
	done
	rm -f "$data/dockerd.pid" /var/run/docker.pid "$containerd"
}
