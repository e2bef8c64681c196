# The dashboard in a container. Build: docker build -t breakhis-dashboard .
# On one machine, for whoever sits at it (the port is published on loopback only, so everyone is an editor); runs and
# packed pixels stay in the volume, images are only read:
#   docker run --init --rm -p 127.0.0.1:8501:8501 -e DASHBOARD_ROLE=editor -v breakhis:/data -v "$PWD/BreaKHis_v1:/images:ro" --shm-size 1g breakhis-dashboard
# For others: behind a TLS proxy with a login, see the README. --gpus all gives it the GPUs.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    DASHBOARD_RUNS=/data/runs \
    DASHBOARD_SAMPLE=/data/sample_data \
    BREAKHIS_CACHE=/data/cache

WORKDIR /app
# Where torch comes from: https://download.pytorch.org/whl/cpu gives an image without CUDA, a fifth of the size.
ARG TORCH_INDEX=""
COPY requirements.txt .
RUN if [ -n "$TORCH_INDEX" ]; then \
      grep -E '^torch(vision)?==' requirements.txt | xargs pip install --index-url "$TORCH_INDEX"; \
    fi && pip install -r requirements.txt

COPY LICENSE pyproject.toml ./
COPY .streamlit/config.toml .streamlit/config.toml
COPY engine engine
COPY dashboard dashboard
COPY pages pages

# Nothing the dashboard writes lies in its code, and it does not run as root. A named volume takes over the owner of
# /data; a folder of the host (-v "$PWD/data:/data") must belong to user 1000.
RUN python -m compileall -q engine dashboard pages \
    && useradd --create-home --uid 1000 dashboard && mkdir -p /data && chown dashboard /data
USER dashboard
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
# --init (or a real init) reaps the workers, which outlive the page that started them.
CMD ["streamlit", "run", "dashboard/Home.py", "--server.address", "0.0.0.0", "--server.headless", "true"]
