# Entry points; the work is done by the scripts beside each product, and those that all need are in .ci.
# `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: run build init image stock disk kernel kernel-check host dist dist-check test test-vm check fresh-check bench clean help

# As typed, dollar signs and quotes included; recipes read the environment, not make's expansion.
override CMD := $(value CMD)
override IMAGE := $(value IMAGE)
export CMD IMAGE GUEST_PROFILE HOST_PROFILE GUEST_TOOLCHAIN KERNEL_DEBUG KERNEL_SOURCE KERNEL_CONFIG STOCK_KERNEL IMAGE_FORMAT IMAGE_XFS RELEASE

fragments := $(addprefix kernel-config/,base.config netfilter.config hyperv.config qemu.config) \
	$(if $(KERNEL_DEBUG),kernel-config/debug.config)

run: build ## boot a utility VM and run a container in it: IMAGE=, CMD='sh -c "cat; exit 7"'
	@qemu/run.sh

build: init image kernel host ## all of out/: the guest, the initrds, the kernel, the host tool

init: ## out/init, the guest's program, and out/bringup: GUEST_PROFILE=guest-dev builds in seconds
	@init/guest.sh

image: init host ## out/initrd.img, out/initrd-debug.img, out/initrd-bringup.img and their manifests; IMAGE_XFS=1: out/initrd-xfs.img
	@image/scripts/image.sh

kernel: ## out/bzImage, out/vmlinux, out/kernel.config, out/kernel.costs: KERNEL_DEBUG=1, KERNEL_SOURCE=
	@kernel-config/build.sh

stock: init host ## out/bzImage-stock, out/initrd-stock.img: the guest with a packaged kernel; STOCK_KERNEL=a .deb or directory
	@image/scripts/stock.sh

disk: build ## out/uvm-gen2.vhdx: a disk that a Hyper-V machine of generation 2 boots (image/hyperv)
	@image/scripts/disk.sh

ifdef KERNEL_CONFIG
kernel-check:
	@kernel-config/require.sh "$$KERNEL_CONFIG"
else
kernel-check: kernel ## the kernel has what LCOW needs, and each option asked for; COSTS=1: bytes of each; KERNEL_CONFIG=F: another kernel's
	@kernel-config/check.sh out/kernel.config $(fragments)
	@kernel-config/require.sh --all out/kernel.config
	@$(if $(COSTS),kernel-config/show-costs.sh out/kernel.costs $(fragments))
endif

host: ## out/uvm, the host tool
	@qemu/host.sh

dist: init image kernel ## out/dist, what a Windows host needs: kernel, initrd, root disks, hashes, licences, INSTALL.md
	@image/scripts/dist.sh

dist-check: dist ## make out/dist again from nothing, in another place, and compare every byte (30 minutes)
	@image/scripts/dist-check.sh

# One test formats disks as xfs, which only this image can.
test: export IMAGE_XFS := 1
test: build kernel-check disk ## set up and run every test
	@image/scripts/stock.sh || echo "==> going on without a packaged kernel: its test is SKIPPED" >&2
	@.ci/test.sh

test-vm: build ## only the tests of the host side, most of which boot a VM
	@.ci/test.sh -p qemu -p 'uvm*'

check: ## formatting and lints
	@.ci/lint.sh

fresh-check: ## `make run` and `make test` on a fresh Debian 12 and 13 (an hour, as root): RELEASE=bookworm|trixie
	@.ci/fresh-check.sh

bench: build ## measure against the floors: a table, out/bench.json, out/bench.svg
	@qemu/bench/floor/build.sh out/floor
	@qemu/bench/counter/build.sh out/counter.so
	@out/uvm bench --json out/bench.json --svg out/bench.svg

clean: ## remove what was built (the kernel stays in the user's cache)
	@rm -rf target out

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
