"""An S3 server (moto's) that can be stopped, slowed down and asked what it has.

    s3_server.py PORT CONTROL_PORT TLS_PORT CERTIFICATE KEY

It checks signatures, as a real one does: the first line on standard output is JSON with the key that it accepts. What it has
outlives a stop, as with a real store. The TLS port, which no stop closes, has the same. Commands are GET requests to the control port, answers JSON:

    /stop /start            stops listening, drops what is under way; listens again, if it does not
    /slow?ms=N              each part of a multipart upload takes so long from now on
    /requests               what was asked since the start: method, path, query and status; a dropped one has status 0
    /bucket?name=NAME       makes a bucket
    /objects?bucket=NAME    name, bytes, SHA-256 and type of each object, read by boto3 over HTTP
    /abort?bucket=NAME      gives up all multipart uploads; how many there were
"""

import hashlib
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse

# Three requests may come unsigned: those that make the user. Then each needs a signature.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

import boto3
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

PORT, CONTROL_PORT, TLS_PORT = (int(port) for port in sys.argv[1:4])
CERTIFICATE = (sys.argv[4], sys.argv[5])
ADDRESS = f"http://127.0.0.1:{PORT}"


class Store:
    def __init__(self):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.requests = []
        self.slow = 0.0
        self.server = None

    def __call__(self, environ, start_response):
        request = {"method": environ["REQUEST_METHOD"], "path": environ["PATH_INFO"], "query": environ["QUERY_STRING"], "status": 0}
        self.requests.append(request)
        if request["method"] == "PUT" and "partNumber" in request["query"]:
            time.sleep(self.slow)
            if self.server is None:
                raise ConnectionAbortedError("stopped")

        def start(status, headers, *rest):
            request["status"] = int(status.split()[0])
            return start_response(status, headers, *rest)

        return self.app(environ, start)

    def start(self):
        if self.server is not None:
            return
        self.server = make_server("127.0.0.1", PORT, self, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        server, self.server = self.server, None
        server.shutdown()
        server.server_close()


def client(service, key="unsigned", secret="unsigned"):
    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0})
    return boto3.client(service, region_name="us-east-1", endpoint_url=ADDRESS, aws_access_key_id=key, aws_secret_access_key=secret, config=config)


def objects(s3, bucket):
    found = []
    for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        got = s3.get_object(Bucket=bucket, Key=item["Key"])
        body = got["Body"].read()
        found.append({"key": item["Key"], "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), "type": got["ContentType"]})
    return found


def abort(s3, bucket):
    uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    for upload in uploads:
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(uploads)


def main():
    store = Store()
    store.start()
    tls = make_server("127.0.0.1", TLS_PORT, store, threaded=True, ssl_context=CERTIFICATE)
    threading.Thread(target=tls.serve_forever, daemon=True).start()
    iam = client("iam")
    iam.create_user(UserName="recorder")
    key = iam.create_access_key(UserName="recorder")["AccessKey"]
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="recorder", PolicyName="all", PolicyDocument=json.dumps(allowed))
    s3 = client("s3", key["AccessKeyId"], key["SecretAccessKey"])

    def command(path, query):
        if path == "/stop":
            return store.stop()
        if path == "/start":
            return store.start()
        if path == "/slow":
            store.slow = float(query["ms"]) / 1000
            return None
        if path == "/requests":
            return store.requests
        if path == "/bucket":
            s3.create_bucket(Bucket=query["name"])
            return None
        if path == "/objects":
            return objects(s3, query["bucket"])
        if path == "/abort":
            return abort(s3, query["bucket"])
        raise ValueError(f"no such command: {path}")

    class Control(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            try:
                status, answer = 200, command(url.path, dict(urllib.parse.parse_qsl(url.query)))
            except Exception as error:  # the test shows it
                status, answer = 500, repr(error)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    control = http.server.ThreadingHTTPServer(("127.0.0.1", CONTROL_PORT), Control)
    print(json.dumps({"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
    control.serve_forever()


main()
