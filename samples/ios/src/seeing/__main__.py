from seeing.app import main

main().main_loop()
