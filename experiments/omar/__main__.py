from jaxoff.experiments.paper import main

if __name__ == "__main__":
    main("omar")
