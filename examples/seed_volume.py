import skerry as modal

app = modal.App("sandbox-with-volume")
vol = modal.Volume.from_name("sandbox-data", create_if_missing=True)


@app.local_entrypoint()
def main():
    sandbox = modal.Sandbox.create(app=app, volumes={"/data": vol}, timeout=300)
    proc = sandbox.exec("bash", "-c", "echo 'test results: all passed' > /data/results.txt")
    proc.wait()
    sandbox.terminate()
    sandbox2 = modal.Sandbox.create(app=app, volumes={"/data": vol})
    proc = sandbox2.exec("cat", "/data/results.txt")
    proc.wait()
    print(proc.stdout.read())
    sandbox2.terminate()
