from read_cache.cli.app import main
