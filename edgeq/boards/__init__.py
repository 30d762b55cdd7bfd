"""Boards: run a bundle where it will live, over ssh, over adb, or on a processor that qemu imitates."""
