.PHONY: init
init:
	@image/scripts/guest.sh
