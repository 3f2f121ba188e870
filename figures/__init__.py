"""Tables and pictures of saved runs; nothing here reads anything but `saves`."""
