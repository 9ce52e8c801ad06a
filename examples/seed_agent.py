import skerry as modal

app = modal.App("agent-sandbox")
image = modal.Image.debian_slim().pip_install("pandas", "pytest")


@app.local_entrypoint()
def run_agent_code():
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=600)
    proc = sandbox.exec(
        "python",
        "-c",
        """
import pandas as pd
df = pd.DataFrame({"x": [1,2,3], "y": [4,5,6]})
print(df.describe().to_string())
""",
    )
    proc.wait()
    print(proc.stdout.read())
    proc2 = sandbox.exec("ls", "/tmp")
    proc2.wait()
    print(proc2.stdout.read())
    sandbox.terminate()
