import skerry as modal

app = modal.App("sandbox-example")


@app.local_entrypoint()
def main():
    sandbox = modal.Sandbox.create("bash", "-c", "echo hello from sandbox", app=app, timeout=300)
    sandbox.wait()
    print(sandbox.stdout.read())
